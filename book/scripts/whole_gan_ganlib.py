"""The same GAN with ganlib; install it from the book's repository first (README.md says how)."""

import torch
from torch.optim import Adam
from torchvision.utils import save_image

from ganlib.data import image_sampler, load_images
from ganlib.games import gan_loss_g, r1_loss_d
from ganlib.models import MaxoutDiscriminator, MLPGenerator
from ganlib.trainer import State, generate, running_average, train

torch.manual_seed(0)
images, rng = load_images("mnist5k")[0], torch.Generator().manual_seed(0)
networks = MLPGenerator(batch_norm=True), MaxoutDiscriminator(dropout=(0.0, 0.0))
opt_g, opt_d = (Adam(network.parameters(), 1e-3, betas=(0.0, 0.99)) for network in networks)
state = State(*networks, opt_g, opt_d, rng, average=running_average(networks[0], 0.998))
train(state, image_sampler(images, 64, 100), r1_loss_d, gan_loss_g, until=4000)
save_image(generate(state.sampling_generator, torch.randn(64, 100)), "digits.png", nrow=8)
