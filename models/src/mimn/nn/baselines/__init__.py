"""The other models of the paper's Table 2, and SIM: one file each, over one feature layer and one MLP (`model`)."""
