"""Planning: profiles, and the cells that they name with their keys."""
