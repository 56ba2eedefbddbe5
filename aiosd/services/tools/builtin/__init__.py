"""The tools that come along.  Each runs in a confined process of its own, as everybody's do."""
