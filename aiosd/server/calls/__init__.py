"""What each syscall does: a class per noun, a method per name; `llm.generate` is llm_generate.

A handler takes a Call whose params are checked and filled in, and returns its result (or an
awaitable of it) or raises a SyscallError.  What belongs to another uid does not exist.
"""
