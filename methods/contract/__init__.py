"""What a method is, for its author: what it declares, what it is given, what it returns, and how it
stores weights."""
