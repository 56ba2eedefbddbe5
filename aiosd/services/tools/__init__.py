"""Tools: what agents and models can call, where they come from, and how a call is carried out."""
