"""What in a config the node reads otherwise than its owner means.

refusals        what the node of a version does not load, in all
go_refusals     what the loaders in Go do not load
rust_refusals   what the loader in Rust does not load
refusal_reasons what is said of that
visits          what a reader has looked at already
go_values       what a value is to the loaders in Go
rust_values     what a value is to the loader in Rust
problems        what the answer is made of
characters      characters that are not what they look like
list_names      the worker lists' keys in every profile
keys            keys, sections, the template
entries         a list, entry by entry
lists           the lists, by themselves and against each other
mesh            the list that is dialled, against the mesh
listeners       addresses that the program replaces by a wildcard
config          all of it
"""
