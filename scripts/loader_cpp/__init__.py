"""Goes through the C++ of llama.cpp's model loader symbolically; see ../loader_facts.py."""
