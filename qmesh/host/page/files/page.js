// The page of `qmesh page`: it shows what the server's events say, and sends nothing.
// All that came from elsewhere enters the document as text: `make`, `setText` and `draw` make nodes, never markup.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const MOST_POINTS = 60; // of a plot, and so of what is kept for each core
const MOST_CHANGES = 60;
const OPEN_WORKERS = 64; // in a cluster of so many at most, all plots are shown from the beginning
const STATES = {
  a: "alive", s: "silent", r: "restarting", u: "unknown",
};
const LINKS = {
  up: "tunnel up", silent: "tunnel silent", never: "never heard", unknown: "tunnel unknown",
  none: "no tunnel from here", here: "",
};
const MARKS = { bad: "✕", good: "✓", note: "•" };

const $ = (id) => document.getElementById(id);
let view = null; // the newest one
let received = 0; // when it came, in ms of performance.now()
let chosen = null; // the name of a machine
let changes = [];
const answers = new Map(); // core -> [microseconds or null], oldest first
let lastAnswers = "";

// ---- Nodes

function make(name, attributes, ...children) {
  const node = document.createElement(name);
  setAttributes(node, attributes);
  node.append(...children);
  return node;
}

function draw(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  setAttributes(node, attributes);
  node.append(...children);
  return node;
}

function setAttributes(node, attributes) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Nodes by key, in the order of `items`; what is there stays, so that focus and open parts do too.
function keepChildren(parent, items, keyOf, build, update) {
  const before = new Map(Array.from(parent.children, (node) => [node.dataKey, node]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let node = before.get(key);
    if (node === undefined) {
      node = build(item);
      node.dataKey = key;
    }
    before.delete(key);
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
    if (update) update(node, item);
  }
  for (const node of before.values()) node.remove();
}

// ---- Words

function duration(seconds) {
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * length) return `${Math.round(seconds / length)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

function size(bytes) {
  let number = bytes;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (number < 1024) return unit === "B" ? `${number} B` : `${number.toFixed(1)} ${unit}`;
    number /= 1024;
  }
  return `${number.toFixed(1)} TiB`;
}

const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});
const plural = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
const milliseconds = (micros) => `${(micros / 1000).toFixed(micros < 9950 ? 1 : 0)} ms`;

function ranges(numbers) {
  const found = [];
  for (const number of numbers) {
    const last = found[found.length - 1];
    if (last && last[1] === number - 1) last[1] = number;
    else found.push([number, number]);
  }
  return found.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(", ");
}

function count(machine, state) {
  let found = 0;
  for (const each of machine.states) if (each === state) found += 1;
  return found;
}

function coresOf(machine, state) {
  return Array.from(machine.states, (each, at) => (each === state ? machine.first + at : 0)).filter(Boolean);
}

// "15 of 16 alive", then what the others are.
function describeWorkers(machine) {
  if (!machine.states) return machine.state === "active" ? "no workers" : machine.state;
  const others = ["s", "r", "u"]
    .filter((state) => machine.states.includes(state))
    .map((state) => `${count(machine, state)} ${STATES[state]}`);
  return [`${count(machine, "a")} of ${machine.states.length} alive`, ...others].join(", ");
}

function describeLink(machine) {
  if (machine.state === "invited") return "invited, has not joined";
  const age = machine.handshake_s;
  const since = machine.link === "silent" && age != null ? `, last handshake ${duration(age)} ago` : "";
  return [machine.name === view.name && "this machine", LINKS[machine.link] + since].filter(Boolean).join(", ");
}

const isBadLink = (machine) => machine.link === "silent" || machine.link === "never";

function medianOf(machine) {
  const known = machine.answers.filter((each) => each !== null).sort((a, b) => a - b);
  return known.length ? known[known.length >> 1] : null;
}

// ---- The shapes of cores: each state has its own, so that colour is never the only sign

function cellPaths(places, states, edge) {
  const paths = new Map();
  const add = (kind, text) => paths.set(kind, (paths.get(kind) || "") + text);
  const box = (x, y, by, length) => `M${x + by} ${y + by}h${length}v${length}h${-length}z`;
  places.forEach(([x, y], at) => {
    const state = states[at];
    if (state === "a") add("fill-a", box(x, y, 0, edge));
    else if (state === "s") {
      const far = edge - 1;
      add("line-s", `${edge < 9 ? "" : box(x, y, 1, edge - 2)}M${x + 1} ${y + 1}L${x + far} ${y + far}M${x + far} ${y + 1}L${x + 1} ${y + far}`);
    } else if (state === "r") {
      add("line-r", box(x, y, 1, edge - 2));
      add("fill-r", `M${x + 1} ${y + edge - 1}V${y + 1}L${x + edge - 1} ${y + edge - 1}z`);
    } else add("fill-u", box(x, y, edge * 0.33, edge * 0.34));
  });
  return paths;
}

function drawCells(parent, places, states, edge) {
  for (const [kind, path] of cellPaths(places, states, edge)) parent.append(draw("path", { class: kind, d: path }));
}

function glyph(state) {
  const image = draw("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" });
  drawCells(image, [[0, 0]], state, 12);
  return image;
}

// ---- The picture: the control node in the middle, the others around

let drawn = null; // what the picture was laid out for, and its groups by machine

function layOut(machines, width) {
  const most = Math.max(1, ...machines.map((machine) => machine.states.length));
  const around = machines.length - 1;
  const narrow = width < 560;
  const few = around <= (narrow ? 5 : 10);
  const stacked = narrow && around <= 2;
  const roomy = stacked || (few && !narrow && around <= 6);
  const dense = around > 300;
  const middling = !few && around <= 24 && !narrow;
  const edge = dense ? 6 : few ? (most <= 24 ? 18 : most <= 64 ? 13 : 8) : middling && most <= 64 ? 11 : 7;
  const step = edge + (edge > 8 ? 3 : 2);
  const least = dense ? 1 : roomy ? 178 : few ? (narrow ? 104 : 132) : middling ? 124 : 70;
  const columns = Math.max(Math.ceil(Math.sqrt(most * (few ? 2.2 : 1.8))), dense ? 1 : Math.floor((least - 14) / step));
  const shown = Math.min(columns, Math.max(most, 1));
  const pad = dense ? 4 : roomy ? 14 : few ? 10 : middling ? 9 : 7;
  const box = {
    width: Math.max(least, shown * step + 2 * pad),
    head: dense ? 3 : roomy ? 72 : few ? 56 : middling ? 26 : 21,
    edge, step, columns, pad, few, roomy, dense, stacked, narrow,
  };
  const third = narrow ? 104 : Math.max(104, width / 3 - 40);
  const room = stacked || dense ? width - 20 : few ? third : narrow ? (width - 40) / 3 : width - 20;
  box.width = Math.min(box.width, room);
  box.columns = Math.max(1, Math.min(columns, Math.floor((box.width - 2 * pad + 3) / step)));
  box.height = box.head + Math.ceil(most / box.columns) * step + pad;
  return { box, ...(few ? layOutRing(around, box, width) : layOutRows(around, box, width)) };
}

// A few around: on an ellipse, as wide as there is room, and as high as they need to stay apart.
function layOutRing(around, box, width) {
  const isLine = around <= 2;
  const across = box.stacked ? 0 : Math.min(Math.max(box.width * 2.2, width * 0.36), width / 2 - box.width / 2 - 4);
  // Where there is no room beside the control node, none is put there.
  const turn = box.narrow && around % 2 === 0 ? Math.PI / around : 0;
  const begin = box.stacked ? Math.PI / 2 : isLine ? Math.PI : turn - Math.PI / 2;
  for (let down = isLine && !box.stacked ? 0 : box.height * 1.25; ; down += 12) {
    const centres = [[0, 0]];
    for (let at = 0; at < around; at += 1) {
      const angle = begin + (2 * Math.PI * at) / Math.max(1, around);
      centres.push([across * Math.cos(angle), down * Math.sin(angle)]);
    }
    const isApart = centres.every(([x, y], at) => centres.slice(at + 1).every(
      ([u, v]) => Math.abs(x - u) >= box.width + 10 || Math.abs(y - v) >= box.height + 16));
    if (isApart || down > 40 * box.height) return placeCentres(centres, box, width);
  }
}

// Many around: in rows, which leave out the corners, in the order of their cores.
function layOutRows(around, box, width) {
  const wide = box.width + (box.dense ? 4 : 12);
  const high = box.height + (box.dense ? 4 : 14);
  const across = Math.max(0, Math.floor(((width - 8) / wide - 1) / 2)); // to each side of the middle
  const down = Math.ceil(((around + 1) / (2 * across + 1) - 1) / 2);
  const places = [];
  for (let row = -down; row <= down; row += 1) {
    for (let column = -across; column <= across; column += 1) {
      if (row || column) places.push([column * wide, row * high]);
    }
  }
  const far = ([x, y]) => Math.hypot(x / ((across + 0.5) * wide), y / ((down + 0.5) * high));
  places.sort((a, b) => far(a) - far(b));
  const taken = places.slice(0, around).sort((a, b) => a[1] - b[1] || a[0] - b[0]);
  return placeCentres([[0, 0], ...taken], box, width);
}

function placeCentres(centres, box, width) {
  const top = Math.min(...centres.map(([, y]) => y)) - box.height / 2 - 6;
  const bottom = Math.max(...centres.map(([, y]) => y)) + box.height / 2 + 6;
  return { centres, width, top, height: bottom - top };
}

function orderMachines() {
  const control = view.machines.filter((machine) => machine.role === "control");
  return [...control, ...view.machines.filter((machine) => machine.role !== "control")];
}

function renderPicture() {
  const width = Math.max(280, Math.floor($("picture").clientWidth));
  const machines = orderMachines();
  const shape = JSON.stringify([width, machines.map((machine) => [machine.name, machine.states.length])]);
  if (drawn === null || drawn.shape !== shape) {
    const hadFocus = drawn !== null && drawn.image === document.activeElement;
    drawn = { shape, ...layOut(machines, width), groups: new Map(), links: new Map() };
    buildPicture(machines);
    if (hadFocus) drawn.image.focus();
  }
  machines.forEach((machine) => updateMachine(machine));
  choose(drawn.groups.has(chosen) ? chosen : null);
}

function buildPicture(machines) {
  const { box, centres, top, height, width } = drawn;
  const image = draw("svg", {
    viewBox: `${-width / 2} ${top} ${width} ${height}`, tabindex: 0, role: "listbox", class: box.roomy ? "roomy" : box.few ? "few" : "many",
    "aria-label": "The cluster as a picture: machines", "aria-describedby": "picture-hint",
  });
  const links = draw("g", { "aria-hidden": "true" });
  const marks = draw("g", { "aria-hidden": "true" });
  image.append(links);
  machines.forEach((machine, at) => {
    const [x, y] = centres[at];
    if (machine.role !== "control") {
      const line = draw("path", { class: "link", d: `M0 0L${x} ${y}` });
      const mark = draw("g", { class: "mark", transform: `translate(${x * 0.5} ${y * 0.5})` },
        draw("circle", { r: 9 }), draw("path", { d: "M-4-4L4 4M4-4L-4 4" }));
      links.append(line);
      marks.append(mark);
      drawn.links.set(machine.name, { line, mark });
    }
    const group = draw("g", {
      class: `machine ${machine.role}`, id: `machine-${at}`, role: "option",
      transform: `translate(${x - box.width / 2} ${y - box.height / 2})`,
    });
    group.addEventListener("click", () => { choose(machine.name); showWorkers(machine.name); });
    group.append(
      draw("rect", { class: "ring", x: -4, y: -4, width: box.width + 8, height: box.height + 8, rx: 10 }),
      draw("rect", { class: "box", width: box.width, height: box.height, rx: box.dense ? 3 : 8 }));
    drawn.groups.set(machine.name, { group, seen: "" });
    image.append(group);
  });
  if (box.few) image.append(marks);
  image.addEventListener("focus", () => choose(chosen === null ? machines[0].name : chosen));
  image.addEventListener("keydown", handleKey);
  $("picture").replaceChildren(image);
  drawn.image = image;
}

function fit(text, width, letter) {
  const most = Math.max(3, Math.floor(width / letter));
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

function updateMachine(machine) {
  const link = drawn.links.get(machine.name);
  if (link) {
    link.line.setAttribute("data-link", machine.link);
    link.mark.toggleAttribute("hidden", !isBadLink(machine));
    link.mark.style.display = isBadLink(machine) ? "" : "none";
  }
  const found = drawn.groups.get(machine.name);
  const words = [describeLink(machine), describeWorkers(machine)];
  const seen = JSON.stringify([words, machine.states, machine.state, machine.link]);
  if (found.seen === seen) return;
  found.seen = seen;
  const { group } = found;
  const { box } = drawn;
  const rest = machine.state === "active" ? "" : machine.state;
  group.setAttribute("data-link", machine.link);
  if (rest) group.setAttribute("data-rests", rest);
  else group.removeAttribute("data-rests");
  const silent = coresOf(machine, "s");
  const label = [
    machine.name, machine.role === "control" ? "control node" : "", rest, ...words.filter(Boolean),
    silent.length ? `silent: ${silent.length === 1 ? "core" : "cores"} ${ranges(silent)}` : "",
  ].filter(Boolean).join("; ");
  group.setAttribute("aria-label", label);
  while (group.children.length > 2) group.lastChild.remove();
  group.append(draw("title", {}, label));
  if (!box.dense) {
    const bad = isBadLink(machine) || silent.length > 0;
    const room = box.width - 2 * box.pad;
    const [first, second, third, wide, thin] = box.roomy ? [26, 46, 63, 8.8, 7] : [20, 35, 49, box.few ? 7.8 : 6.9, 6.4];
    group.append(draw("text", { x: box.pad, y: box.few ? first : box.head - 6, class: "name" }, fit(machine.name, room - (bad && !box.few ? 8 : 0), wide)));
    if (box.few) {
      const role = machine.role === "control" ? "control node" : rest || LINKS[machine.link] || "";
      group.append(
        draw("text", { x: box.pad, y: second, class: isBadLink(machine) ? "small bad" : "small" }, fit(role, room, thin)),
        draw("text", { x: box.pad, y: third, class: silent.length ? "small bad" : "small" },
          fit(describeAlive(machine), room, thin)));
    } else if (bad) {
      group.append(draw("text", { x: box.width - 13, y: box.head - 7, class: "bad" }, "✕"));
    }
  }
  const places = Array.from(machine.states, (_, at) => [
    box.pad + (at % box.columns) * box.step, box.head + Math.floor(at / box.columns) * box.step,
  ]);
  drawCells(group, places, machine.states, box.edge);
}

function describeAlive(machine) {
  if (!machine.states) return machine.state === "active" ? "no workers" : "";
  if (/^u+$/.test(machine.states)) return `${plural(machine.states.length, "worker")}, unknown`;
  return `${count(machine, "a")} of ${machine.states.length} alive`;
}

// null: none yet, as before a click, or before the picture has had the focus.
function choose(name) {
  chosen = name;
  for (const [each, { group }] of drawn.groups) {
    group.toggleAttribute("data-chosen", each === name);
    group.setAttribute("aria-selected", each === name ? "true" : "false");
    if (each === name) drawn.image.setAttribute("aria-activedescendant", group.id);
  }
}

function handleKey(event) {
  const names = [...drawn.groups.keys()];
  const at = names.indexOf(chosen);
  const next = {
    ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: names.length - 1,
  }[event.key];
  if (event.key === "Enter" || event.key === " ") {
    showWorkers(chosen === null ? names[0] : chosen);
  } else if (next === undefined || event.ctrlKey || event.altKey || event.metaKey) {
    return;
  } else {
    choose(names[Math.max(0, Math.min(names.length - 1, at < 0 ? 0 : next))]);
  }
  event.preventDefault();
}

function showWorkers(name) {
  for (const part of $("workers").children) {
    if (part.dataKey === name) {
      part.open = true;
      part.scrollIntoView({ block: "nearest" });
      part.querySelector("summary").focus();
    }
  }
}

function renderLegend() {
  if ($("legend").children.length) return;
  const item = (image, words) => $("legend").append(make("li", {}, image, words));
  for (const [state, words] of Object.entries(STATES)) item(glyph(state), `worker ${words}`);
  for (const [link, words] of [["up", "tunnel up"], ["silent", "tunnel silent"], ["unknown", "tunnel unknown"]]) {
    item(draw("svg", { viewBox: "0 0 26 12", class: "way", "aria-hidden": "true" },
      draw("path", { class: "link", "data-link": link, d: "M0 6H26" })), words);
  }
}

// ---- One sentence, and what it is made of

function judge() {
  const sum = { silent: 0, restarting: 0, unknown: 0, alive: 0, all: 0 };
  for (const machine of view.machines) {
    sum.all += machine.states.length;
    sum.alive += count(machine, "a");
    sum.silent += count(machine, "s");
    sum.restarting += count(machine, "r");
    sum.unknown += count(machine, "u");
  }
  const findings = view.findings || [];
  sum.errors = findings.filter((each) => each.severity === "error").length;
  sum.warnings = findings.filter((each) => each.severity === "warning").length;
  sum.links = view.machines.filter(isBadLink).length;
  sum.agents = view.machines.filter((machine) => machine.agent_silent_s != null && !isBadLink(machine)).length;
  sum.guard = view.guard === false;
  const words = [
    sum.guard && "the guard is not whole",
    sum.links && `${plural(sum.links, "machine")} silent`,
    sum.silent && `${plural(sum.silent, "worker")} silent`,
    sum.restarting && `${plural(sum.restarting, "worker")} restarting`,
    sum.agents && `${plural(sum.agents, "agent")} silent`,
    sum.errors + sum.warnings && plural(sum.errors + sum.warnings, "finding"),
  ].filter(Boolean).join(", ");
  if (words) {
    const isError = sum.guard || sum.links || sum.silent || sum.errors;
    return { sum, state: isError ? "error" : "warning", words: words[0].toUpperCase() + words.slice(1) };
  }
  if (sum.unknown && !sum.alive && view.guard === null) return { sum, state: "", words: "Nothing is known of the workers yet" };
  return { sum, state: "fine", words: sum.unknown ? "All that is known from here is as it should be" : "Everything is as it should be" };
}

function renderNow() {
  const { sum, state, words } = judge();
  document.querySelector(".now").setAttribute("data-state", state);
  setText($("verdict"), words);
  document.title = (state === "fine" ? "✓ " : state === "error" ? "✕ " : state ? "! " : "") + `${words} - ${view.control}`;
  const known = view.machines.filter((machine) => machine.state === "active" && machine.link !== "none");
  const heard = known.filter((machine) => machine.link === "up" || machine.link === "here").length;
  const guard = { true: "whole", false: "not whole", null: "unknown" }[String(view.guard)];
  keepChildren($("sums"), [
    ["workers alive", `${sum.alive} of ${sum.all}`, sum.silent > 0],
    ["machines reachable", `${heard} of ${known.length}`, sum.links > 0],
    [`guard of ${view.name}`, guard, sum.guard],
    ["revision", String(view.revision), false],
    ["node", view.node, false],
  ], ([title]) => title, ([title]) => make("div", {}, make("dt", {}, title), make("dd", {})),
  (node, [, value, isBad]) => {
    setText(node.lastChild, value);
    node.setAttribute("data-bad", isBad);
  });
}

function renderFindings() {
  const rank = { error: 0, warning: 1, info: 2 };
  const words = { error: "✕ error", warning: "! warning", info: "• note" };
  const found = [...(view.findings || [])].sort((a, b) => rank[a.severity] - rank[b.severity]);
  const place = $("findings");
  if (!found.length) {
    const when = view.checked_at == null ? "" : ` The last check was at ${clock(view.checked_at)}.`;
    place.replaceChildren(make("p", {}, view.findings === null
      ? `${view.name} has not been checked yet.` : `✓ The check of ${view.name} found nothing.${when}`));
    return;
  }
  const parts = found.slice(0, 100).map((finding) => {
    const part = make("article", { class: "finding", "data-severity": finding.severity },
      make("h3", {}, make("b", {}, words[finding.severity]), `${finding.code}: ${finding.subject}`),
      make("p", {}, make("span", {}, "seen: "), finding.seen),
      make("p", {}, make("span", {}, "wanted: "), finding.wanted));
    if (finding.cure) part.append(make("code", { class: "fix" }, finding.cure));
    if (finding.link) part.append(make("p", {}, make("span", {}, "more: "), finding.link));
    return part;
  });
  if (found.length > 100) parts.push(make("p", { class: "more" }, `and ${found.length - 100} more: type qmesh check`));
  place.replaceChildren(...parts);
}

// ---- What changed

function renderChanges() {
  keepChildren($("changes"), changes.length ? changes : [null],
    (each) => (each ? `${each.at} ${each.text}` : ""),
    (each) => (each === null
      ? make("li", { class: "none" }, "Nothing has changed since this page is served.")
      : make("li", { "data-kind": each.kind },
        make("time", { datetime: new Date(each.at * 1000).toISOString() }, when(each.at)),
        make("b", { "aria-hidden": "true" }, MARKS[each.kind] || ""), make("span", {}, each.text))));
}

function when(seconds) {
  const then = new Date(seconds * 1000);
  const now = new Date((view ? view.at : seconds) * 1000);
  if (then.toDateString() === now.toDateString()) return clock(seconds);
  return then.toLocaleDateString([], { day: "numeric", month: "short" });
}

function addChanges(more, isNews) {
  changes = [...more].reverse().concat(changes).sort((a, b) => b.at - a.at).slice(0, MOST_CHANGES);
  if (!isNews || !more.length) return;
  const said = more.slice(0, 3).map((each) => each.text).join("; ");
  setText($("said"), more.length > 3 ? `${said}; and ${more.length - 3} more changes` : said);
}

// ---- Workers and their answer times

function noteAnswers(machines) {
  const seen = JSON.stringify(machines.map((machine) => [machine.first, machine.answers]));
  if (seen === lastAnswers) return;
  lastAnswers = seen;
  const there = new Set();
  for (const machine of machines) {
    machine.answers.forEach((answer, at) => {
      const core = machine.first + at;
      there.add(core);
      const kept = answers.get(core) || [];
      kept.push(answer);
      if (kept.length > MOST_POINTS) kept.shift();
      answers.set(core, kept);
    });
  }
  for (const core of answers.keys()) if (!there.has(core)) answers.delete(core);
}

function plotPaths(points, top) {
  const at = (index) => 100 - ((points.length - 1 - index) * 100) / (MOST_POINTS - 1);
  let line = "";
  let gaps = "";
  let isOn = false;
  points.forEach((point, index) => {
    const x = at(index).toFixed(1);
    if (point === null) {
      gaps += `M${x} 12v12`;
      isOn = false;
    } else {
      const y = (22 - 20 * Math.min(1, point / top)).toFixed(1);
      line += isOn ? `L${x} ${y}` : `M${x} ${y}h.01`;
      isOn = true;
    }
  });
  return [line, gaps];
}

function plot() {
  return draw("svg", { class: "plot", viewBox: "0 0 100 25", preserveAspectRatio: "none", "aria-hidden": "true" },
    draw("path", {}), draw("path", { class: "gap" }));
}

function updatePlot(image, points, top) {
  const [line, gaps] = plotPaths(points, top);
  image.firstChild.setAttribute("d", line);
  image.lastChild.setAttribute("d", gaps);
}

function topOf(machine) {
  let top = 1000;
  machine.answers.forEach((_, at) => {
    for (const each of answers.get(machine.first + at) || []) if (each !== null && each > top) top = each;
  });
  return top * 1.1;
}

function renderWorkers() {
  const machines = view.machines.filter((machine) => machine.states);
  const isSmall = machines.reduce((sum, machine) => sum + machine.states.length, 0) <= OPEN_WORKERS;
  keepChildren($("workers"), machines, (machine) => machine.name, (machine) => {
    const part = make("details", {}, make("summary", {}, make("b", {}, machine.name), make("span", {})),
      make("dl", { class: "facts" }), make("ul", { class: "tiles" }));
    if (isSmall) part.open = true;
    part.addEventListener("toggle", () => part.open && view && updateTiles(part));
    return part;
  }, (part, machine) => {
    part.machine = machine;
    const words = part.firstChild.lastChild;
    const median = medianOf(machine);
    setText(words, describeWorkers(machine) + (median === null ? "" : `; median answer ${milliseconds(median)}`));
    words.setAttribute("class", machine.states.includes("s") ? "bad" : "");
    if (part.open) updateTiles(part);
  });
}

function updateTiles(part) {
  const { machine } = part;
  const [, facts, tiles] = part.children;
  keepChildren(facts, listFacts(machine), ([title]) => title,
    ([title]) => make("div", {}, make("dt", {}, title), make("dd", {})),
    (node, [, value]) => setText(node.lastChild, value));
  const top = topOf(machine);
  keepChildren(tiles, Array.from(machine.states, (state, at) => [machine.first + at, state, machine.answers[at]]),
    ([core]) => core,
    ([core]) => make("li", { class: "tile" },
      make("p", {}, make("b", {}, `core ${core}`), make("span", {})), make("p", {}, make("span", {})), plot()),
    (tile, [core, state, answer]) => {
      const [head, second, image] = tile.children;
      if (tile.getAttribute("data-state") !== state) {
        tile.setAttribute("data-state", state);
        head.firstChild.replaceChildren(glyph(state), `core ${core}`);
      }
      setText(head.lastChild, answer === null || answer === undefined ? "" : milliseconds(answer));
      const why = machine.whys && machine.whys[core];
      setText(second.firstChild, STATES[state] + (why ? `: ${why}` : ""));
      const points = answers.get(core) || [];
      image.style.display = points.some((point) => point !== null) ? "" : "none";
      updatePlot(image, points, top);
    });
}

function listFacts(machine) {
  const facts = [["address", machine.address]];
  if (machine.link !== "here") facts.push(["tunnel", LINKS[machine.link]]);
  if (machine.revision != null) facts.push(["revision", String(machine.revision)]);
  if (machine.agent_silent_s != null) facts.push(["agent", `silent for ${duration(machine.agent_silent_s)}`]);
  for (const [title, value] of machine.facts || []) facts.push([title, value]);
  return facts;
}

// ---- The table

const COLUMNS = ["machine", "state", "tunnel", "workers", "median answer", "handshake", "received", "sent", "address"];

function renderTable() {
  const table = $("table");
  if (!table.tHead) {
    table.append(
      make("caption", { class: "unseen" }, "Every machine of the cluster"),
      make("thead", {}, make("tr", {}, ...COLUMNS.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}));
  }
  keepChildren(table.tBodies[0], orderMachines(), (machine) => machine.name,
    (machine) => make("tr", {}, make("th", { scope: "row" }, machine.name), ...COLUMNS.slice(1).map(() => make("td", {}))),
    (row, machine) => {
      const median = medianOf(machine);
      const values = [
        machine.role === "control" ? `${machine.state}, control node` : machine.state,
        describeLink(machine),
        describeWorkers(machine),
        median === null ? "-" : milliseconds(median),
        machine.handshake_s == null ? "-" : `${duration(machine.handshake_s)} ago`,
        machine.received_bytes == null ? "-" : size(machine.received_bytes),
        machine.sent_bytes == null ? "-" : size(machine.sent_bytes),
        machine.address,
      ];
      values.forEach((value, at) => setText(row.children[at + 1], value));
      row.children[2].setAttribute("class", isBadLink(machine) ? "bad" : "");
      row.children[3].setAttribute("class", machine.states.includes("s") ? "bad" : "");
    });
}

// ---- What comes

let isScheduled = false;

function schedule() {
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame(() => {
    isScheduled = false;
    render();
  });
}

function render() {
  if (view === null) return;
  setText($("mesh"), view.mesh);
  renderNow();
  renderFindings();
  renderPicture();
  renderLegend();
  renderChanges();
  // The parts below come a moment later, so that the picture is there at once.
  setTimeout(() => {
    renderWorkers();
    renderTable();
    setText($("served"), `Served by qmesh ${view.version} on ${view.name}. Read only: no command can be given here.`);
    performance.mark("complete");
  }, 0);
  performance.mark("drawn");
}

function showLive(isOn) {
  const live = $("live");
  live.setAttribute("data-state", isOn ? "on" : "off");
  const at = view === null ? "" : clock(view.at);
  setText(live, isOn ? (at ? `live, as of ${at}` : "live") : at ? `not connected; this is as of ${at}` : "not connected");
  if (isOn) {
    live.toggleAttribute("data-new", false);
    requestAnimationFrame(() => live.toggleAttribute("data-new", true));
  }
}

function showTrouble(trouble) {
  const place = $("trouble");
  place.hidden = trouble === null;
  const before = place.textContent;
  const words = trouble === null ? "" : `${trouble.message}. ${trouble.hint}`;
  if (before !== words) place.textContent = words;
}

function listen() {
  const events = new EventSource("events");
  let isFirst = true;
  const on = (name, handle) => events.addEventListener(name, (event) => handle(JSON.parse(event.data)));
  on("view", (news) => {
    view = news;
    received = performance.now();
    noteAnswers(news.machines);
    showTrouble(null);
    showLive(true);
    schedule();
  });
  on("history", (samples) => {
    const newest = view;
    answers.clear();
    lastAnswers = "";
    for (const machines of samples) noteAnswers(machines);
    if (newest) noteAnswers(newest.machines);
    schedule();
  });
  on("changes", (news) => {
    if (isFirst) changes = [];
    addChanges(news, !isFirst);
    isFirst = false;
    schedule();
  });
  on("trouble", (news) => { showTrouble(news); showLive(news === null); });
  on("beat", () => { received = performance.now(); });
  events.addEventListener("error", () => {
    isFirst = true;
    showLive(false);
    // The browser calls again by itself, but not where it was refused: as many windows as there can be are open.
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  });
}

// A machine that slept, or a tunnel of ssh that died without a word.
setInterval(() => {
  if (view !== null && performance.now() - received > 30000) showLive(false);
}, 5000);

new ResizeObserver(() => { if (view !== null) schedule(); }).observe($("picture"));
listen();
