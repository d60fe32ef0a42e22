"""Everything that can only be measured on a GPU, as Markdown tables: `make bench-gpu`."""
