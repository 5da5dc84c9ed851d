"""Content of the page's sections, as plain data for the templates of the same names.

- `opening`: lead paragraphs
- `key_numbers`, `findings`: tiles and sentences of the held-out protocol
- `strict_findings`, `strict_factors`: sentences of the strict protocol
- `gallery`: latents and their top-activating clips
- `annotated_labels`: the latent of each annotated label
- `methods`: methods, provenance and clips set aside
"""
