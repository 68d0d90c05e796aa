mod h1;
mod h2;
