"""Version of the suite; a module alone, so that no module imports the package itself."""

__version__ = "0.2.0"
