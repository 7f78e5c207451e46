"""The other models of the paper's Table 2, and SIM: a file each, over one feature layer and one MLP (`model`)."""
