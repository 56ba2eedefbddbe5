"""`aiosctl top`: the daemon at work, live.

command.py   the command: one screen for pipes, or the loop of samples and keys
board.py     what was sampled and what is chosen: rates, order, the cursor; pure
screen.py    the board as lines of text that fit a size; pure
keyboard.py  a terminal that tells keys one by one, and is left as it was found
"""
