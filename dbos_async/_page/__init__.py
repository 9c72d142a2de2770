"""The page on which operators see and steer workflows: its routes, its views, and what they show."""
