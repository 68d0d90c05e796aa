//! Properties and simulations of the decisions.
