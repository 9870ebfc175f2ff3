//! Keys and signatures: who may say what a ref or a commit is.
