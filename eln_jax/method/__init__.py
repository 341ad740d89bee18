"""The paper's method, and nothing else: state, views, losses, gates and one step a phase."""
