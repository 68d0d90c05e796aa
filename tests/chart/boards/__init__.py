"""What the dashboards show: a title, a unit, what is asked, and a sentence about it."""

PERIOD = "[$__rate_interval]"


def stat(title, about, unit, query, *steps, width=6, link=None):
    """One number. `steps`: a colour, then a value and the colour from there on, and so on."""
    return {"kind": "stat", "title": title, "about": about, "unit": unit, "queries": [(query, None)], "steps": steps,
            "width": width, "link": link}


def chart(title, about, unit, *queries, stacked=False, width=8, link=None):
    """Lines over time; each query with the legend of its series."""
    return {"kind": "timeseries", "title": title, "about": about, "unit": unit, "queries": queries, "stacked": stacked,
            "width": width, "link": link}


def table(title, about, columns, *queries, link=None):
    """Numbers of now side by side; `columns`: the name and unit of each query."""
    return {"kind": "table", "title": title, "about": about, "unit": "none", "columns": columns,
            "queries": [(query, None) for query in queries], "width": 24, "link": link}


def rate(metric, matchers, by=None):
    """Per second, summed up."""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({metric}{{{matchers}}}{PERIOD}))"


def errors(matchers, by=None):
    """Requests per second that ended with a 5xx, or with a status of gRPC's that is the server's fault."""
    grouping = f" by ({by})" if by else ""
    series = (f"rate(weft_requests_total{{{matchers},status=~\"5..\"}}{PERIOD}) or "
              f"rate(weft_requests_total{{{matchers},grpc_status=~\"2|4|13|14|15\"}}{PERIOD})")
    return f"sum{grouping} ({series})"


def success(matchers, by=None):
    """The share of requests that did not end so; 1 where none did."""
    total = rate("weft_requests_total", matchers, by)
    return f"1 - ({errors(matchers, by)} or 0 * {total}) / {total}"


def quantile(share, metric, matchers, by=None):
    grouping = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({grouping}) (rate({metric}_bucket{{{matchers}}}{PERIOD})))"


def quantiles(metric, matchers):
    """Half, 95 % and 99 %, each with its legend."""
    return [(quantile(share, metric, matchers), legend) for share, legend in
            [(0.5, "half"), (0.95, "95 %"), (0.99, "99 %")]]


GOOD = ("red", 0.99, "orange", 0.999, "green")
NONE_IS_GOOD = ("green", 1, "orange")
TWO_WEEKS = ("red", 14 * 86400, "green")
