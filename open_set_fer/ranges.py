"""Ranges of numeric settings, checked when a profile is read.

Upper bounds are far above any sensible value, to catch typing errors.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Epochs = Annotated[int, Field(ge=1, le=100_000)]
BatchSize = Annotated[int, Field(ge=2, le=1_000_000)]
"""Batch norm needs two images."""
Count = Annotated[int, Field(ge=1, le=10_000_000)]
CountOrZero = Annotated[int, Field(ge=0, le=10_000_000)]
Folds = Annotated[int, Field(ge=2, le=1000)]
Stages = Annotated[int, Field(ge=0, le=4)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
