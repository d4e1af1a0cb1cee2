"""The shared module of the book *Generative Adversarial Nets, Derived and Run*.

The reading room, what chapters import:

theory    densities on a grid: the optimal discriminator, V, KL and JS divergence
losses    the players' losses, as functions of logits
games     pairs of losses, of both networks and a batch
trainer   one training step, the loop around it and its state
guards    errors in a sentence, where a number would otherwise be wrong without a word
history   what training recorded
seeds     several seeds of one small GAN in one call
models    the networks, from two-layer perceptrons to the 2014 paper's and a convolutional pair
rounding  networks that are run in bfloat16
archives  data sets on the disk, unpacked and moved into place at once
data      images, and the 1-D and 2-D densities of the theory chapters
metrics   what a classifier and a ruler say about samples
plotting  figures in the book's style
scrubber  a slider over prepared pictures that needs no kernel
records   when, on what and by which command numbers were made
checks    claims that a chapter asserts while it runs

The machine room, `ganlib.runs`: training runs in folders and the command line, `ganlib`.
"""

__version__ = "0.1.0"
