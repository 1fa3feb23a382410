// Noisy linear imputation.
#include "../cpu/linear_imputation.cpp"
