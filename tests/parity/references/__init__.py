"""What each registered size is compared with, one file per family.

A file here has some of these names; `zoo` gathers them:

  REFERENCES   name -> `Reference`: our registered name, or "source:their name" where the reference says who is `ours`.
               Every registered size has one at least.
  FAMILIES     module of timm -> our families (modules of `jaxvision.backbones`) that hold its models.
  EXCLUDED     module of timm, or "torchvision" -> {pattern of names that are not built here: why}.
  TORCHVISION  pattern of torchvision's names of the family's classifiers; each must be registered, or an alias.
  SMALLEST     names of `REFERENCES` whose outputs are compared in every run: the smallest size of each structure.
"""
