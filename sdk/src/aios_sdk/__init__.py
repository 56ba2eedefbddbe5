"""The socket SDK of aiosd."""
