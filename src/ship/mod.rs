//! What leaves shmocker: images and trees in the forms that other programs take.

pub mod engines;
pub mod export;
