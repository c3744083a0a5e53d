// Whether what computes on AMX tiles can be trusted here.
#pragma once

#include "kernels.h"
#include "late_interaction.h"

// Whether the processor has tiles of bfloat16 and of bytes and the system lets this process use
// them; asks the system once.
bool has_tiles();

// Whether `candidate` attends as `reference` does, in bfloat16 on a small random problem, which
// takes less than a millisecond.
bool attends_alike(AttentionFunction* candidate, AttentionFunction* reference);

// Whether `candidate` gives the gradients that `reference` gives after `attention`.
bool differentiates_alike(AttentionGradientFunction* candidate,
                          AttentionGradientFunction* reference, AttentionFunction* attention);

// Whether `candidate` gives the bounds that `reference` gives, which rounds queries to the same
// levels.
bool bounds_alike(BoundFunction* candidate, BoundFunction* reference);
