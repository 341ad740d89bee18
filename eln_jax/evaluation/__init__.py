"""What a trained system is judged by: inference at original size, counts, figures and pictures."""
