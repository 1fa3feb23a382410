"""Random small networks, and the rule that holds for each: the right heatmap, or a word about why not.

``pytest tests/property`` asks 300 networks; ``CAMFAST_PROPERTY_NETWORKS=10000`` sets another number. ``python -m
tests.property --networks 10000 --seed 1 --json out.json`` does the same without pytest and prints figures.

    choices.py    what was drawn, by name: a network and its questions are a dict that can be drawn again
    axes.py       what the dimensions of a tensor are
    blocks.py     modules that know the axes of what they return
    trunks.py     from an image to features
    heads.py      from features to scores
    networks.py   whole models, their inputs and outputs; arrangements of several images; adapters
    evidence.py   images in which one place alone carries something
    questions.py  layers, targets, methods and forms of input to ask for
    plain.py      the right maps, by plain autograd
    verdicts.py   what camfast answered: right, refused, warned, or silently wrong
    traces.py     what a call must leave as it was
    peers.py      the same beside the libraries that the adapters stand for
    kept.py       networks that once had a silent wrong map
"""
