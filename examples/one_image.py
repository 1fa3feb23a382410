"""One photograph: its likeliest classes, and where each of them was seen.

    python examples/one_image.py photo.jpg

Without a photograph the cat of scikit-image is taken. Needs `pip install "camfast[demo]"`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import camfast
from camfast import zoo
from camfast.pictures import photos

# The network with its trained weights and its own preparation. With a network of your own: model.eval(), and images
# [N, 3, H, W] prepared as it was trained.
network = zoo.load("efficientnet-lite0")

if len(sys.argv) > 1:
    file = Path(sys.argv[1])
else:
    import skimage

    file = Path(skimage.__file__).parent / "data" / "chelsea.png"
photo = photos.read(file)  # RGB uint8 [H, W, 3], upright
images = network.preparation.stretched()(photo)[None]  # the whole photograph, [1, 3, 224, 224]

# One pass: scores [1, 1000], and heatmaps [1, 3, 224, 224] of the three likeliest classes.
result = camfast.grad_cam(network.model, images, camfast.TopK(3), class_names=network.class_names)
print(result)

probabilities = result.scores.softmax(1)[0]
overlays = result.overlay(photo)  # uint8 [1, 3, H, W, 3], over the photograph at its own size
for rank, number in enumerate(result.targets[0].tolist()):
    name, score = result.label(0, rank), probabilities[number].item()
    camfast.legend(overlays[0, rank], [(name, score)])
    written = photos.write(overlays[0, rank].numpy(), f"{file.stem}_{rank + 1}.png")
    print(f"{score:6.1%}  {name}: {written}")
