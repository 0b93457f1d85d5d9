"""Methods for nerfstudio (1.1.5): what its entry points name. Only nerfstudio imports them."""
