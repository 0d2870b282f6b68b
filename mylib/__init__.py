"""One Mask at a Time: masks, objectives and samplers over one small Transformer.

The package is used by the chapters in ``notebooks/`` and stands on its own: to build masks
(`mylib.masks`), to find out whether a model sees what it must not see (`mylib.leaks`), to make an
encoder of a decoder and be sure of it (`mylib.convert`), to train (`mylib.train`) and to sample
(`mylib.sampling`). Importing it is light; each module is imported by name when it is needed.
"""

__version__ = "0.1.0"
