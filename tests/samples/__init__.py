"""Files for tests, made when they are needed: good ones, broken ones and bombs."""
