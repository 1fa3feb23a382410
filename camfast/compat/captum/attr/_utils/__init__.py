"""Module paths of captum."""
