"""The shared module of the book *Generative Adversarial Nets, Derived and Run*.

theory    densities on a grid: the optimal discriminator, V, KL and JS divergence
losses    the players' losses, as functions of logits
models    the networks, from two-layer perceptrons to the 2014 paper's and a convolutional pair
trainer   one training step, the loop around it, its state and its history
compiled  the training step as one compiled graph
data      images, and the 1-D and 2-D densities of the theory chapters
metrics   what a classifier and a ruler say about samples
plotting  figures in the book's style, and a scrubber that needs no kernel
checks    claims that a chapter asserts while it runs
runs      training runs in folders: checkpoints, image grids, metrics, one process or more
cli       the command line, `ganlib`
"""

__version__ = "0.1.0"
