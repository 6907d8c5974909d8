"""From files to subjects: one module a family of formats, and `read`, which knows which file is which."""
