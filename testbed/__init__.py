"""For people: experiments, the local cluster, the judge, the report."""
