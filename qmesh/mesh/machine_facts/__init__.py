"""Facts of machines: what each has and runs, so that unlike machines are seen.

facts        what is known of one machine, with its bounds
proc_files   files of /proc -> what of them is a fact
restarts     workers as they were seen -> how often each was started again
schedule     when a member tells the control node again
differences  the facts of all machines -> in what they are unlike, and short of memory
"""
