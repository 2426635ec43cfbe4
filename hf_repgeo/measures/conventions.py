"""The published variants of the measures, by the names that `Estimate.convention` and every report carry.

The table of measures and the functions behind it both take the names from here. They are plain strings: reports,
logs and options hold them as they are.
"""

AGRAWAL = "agrawal"
BALL = "ball"
BIT_EQUAL = "bit_equal"
CENTRED = "centred"
DENTI = "denti"
EIGENVALUES = "eigenvalues"
FACCO = "facco"
GARRIDO = "garrido"
IDENTITY = "identity"
LEVINA = "levina"
LLOYD = "lloyd"
MACKAY = "mackay"
MARBUT = "marbut"
MLE = "mle"
MU = "mu"
NORM_OVER_5_MEDIANS = "norm_over_5_medians"
OFF_DIAGONAL = "off_diagonal"
RAZZHIGAEV = "razzhigaev"
ROY_VETTERLI = "roy_vetterli"
RUDMAN = "rudman"
VARIANCE = "variance"
VON_NEUMANN = "von_neumann"
WANG = "wang"
