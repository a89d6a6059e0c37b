"""The benchmark: protocols, plans of cells, their execution, storage and hyperparameter studies."""
