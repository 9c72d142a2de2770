"""The page: who may see it and act, its screens, its actions, and how it stands in a browser."""
