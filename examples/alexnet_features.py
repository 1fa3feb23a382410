# %% [markdown]
# # What AlexNet sees
# Cells of a notebook, or a script: `python examples/alexnet_features.py photo.jpg alexnet.pth`.
# Without a photograph the cat of scikit-image is taken; without weights torchvision fetches AlexNet's.

# %%
import sys
from pathlib import Path

import camfast
from camfast import zoo
from camfast.pictures import photos

photo = sys.argv[1] if len(sys.argv) > 1 else None
weights = sys.argv[2] if len(sys.argv) > 2 else None
if photo is None:
    import skimage

    photo = Path(skimage.__file__).parent / "data" / "chelsea.png"

# %% A network, and the photograph as its input
network = zoo.load("alexnet", weights)
image = network.preparation(photos.read(photo))[None]  # [1, 3, 224, 224]

# %% One pass: the output of every convolution, as the convolution returned it
maps = camfast.FeatureMaps(network.model)(image)  # "features.0": [1, 64, 55, 55], ...

# %% The 64 maps of the first convolution, side by side: shown as a picture in a notebook
grid = maps.grid("features.0", colormap="viridis", scale=2)
grid.save("alexnet-features.0.png")
grid  # noqa: B018

# %% A matplotlib figure, with the channels' numbers
figure = maps.grid("features.3", labels=True, scale=2).figure()
figure.savefig("alexnet-features.3.png")

# %% All of them for TensorBoard: tensorboard --logdir runs/alexnet
maps.to_tensorboard("runs/alexnet")

# %% Where the top class's score would rise: gradients of the same layers
gradients = camfast.Gradients(network.model, "features.*", types="Conv2d")(image)
gradients.grid("features.10", normalize="all", colormap="turbo", scale=4).save("alexnet-gradients.10.png")
