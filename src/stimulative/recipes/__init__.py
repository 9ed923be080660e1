"""The recipes that come with the package, one commented YAML file each; `stimulative.training` reads them."""
