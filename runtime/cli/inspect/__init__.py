"""`edge-actors inspect`: what goes on between the actors of a running edge."""
