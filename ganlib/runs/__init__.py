"""The machine room: training runs in folders, by one process or more, and the command `ganlib`.

settings    one table of models and one of games, and what determines a run
state       all that training changes as plain containers, and back
checkpoint  files of such containers, whole at every moment and checked when they are read
parallel    the processes and the device of a run
compiled    the training step as one compiled graph
folder      what a run's folder holds, and what may be written where
evaluation  pictures of a run's generator, and chapter 9's measures of them
training    a run from its first step or its last checkpoint to its total
cli         the commands, their options and their errors

Each module imports only from those above it and from the reading room, which imports none of them.
"""
