"""Does a potential hold in molecular dynamics, and does it visit what it should?

After X. Fu, Z. Wu, W. Wang, T. Xie, S. Keten, R. Gomez-Bombarelli, T. Jaakkola, Forces are not
enough: benchmark and critical evaluation for machine learning force fields with molecular
simulations, TMLR 2023.
"""
