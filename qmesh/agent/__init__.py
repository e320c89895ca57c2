"""What puts deciding and acting together, once or for ever."""
