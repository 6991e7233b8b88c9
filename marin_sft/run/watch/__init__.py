"""`marin-sft watch`: a launch on the whole screen of a terminal. Made from the store alone.

launch   what is known of the launch at a moment
screen   the lines to show, for a view and a size
command  the terminal: keys, and reading while it waits for them
"""
