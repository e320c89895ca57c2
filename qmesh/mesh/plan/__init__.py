"""Two `NodeState`s in, steps out; and the pure model of what a step does to a machine.

The law: folding `simulate_step` over `plan_steps(desired, observed)` from `observed` settles at `desired`,
and `plan_steps` of a machine that is as desired is `()`. Order: the guard is loaded before anything of the
tunnel is touched, and is removed last.

steps     each kind of step: a value with old and new, that is printed, logged and applied
compare   desired + observed -> steps, in order
describe  step -> words
simulate  state + step -> state
"""
