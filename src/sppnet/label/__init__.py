"""Label, learn, correct: a page that suggests boxes after every photograph."""
