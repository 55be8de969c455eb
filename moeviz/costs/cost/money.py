"""What a run costs: device hours, dollars, kilowatt hours, carbon."""

from __future__ import annotations

from dataclasses import dataclass

from moeviz.checks import check_number
from moeviz.costs.shape.terms import Term, Total, single

# kg of CO2 a kWh: Llama 3.1's card, 8,930 t for 21.6 GWh of TDP hours, works out at this.
LLAMA_GRID_KG_PER_KWH = 0.414


def device_hours(flops: float, peak_flops_per_s: float, utilisation: float) -> Total:
    """Hours of one device for so many FLOPs at a share of its peak (MFU)."""
    check_number("flops", flops, open_low=True)
    check_number("peak_flops_per_s", peak_flops_per_s, open_low=True)
    check_number("utilisation", utilisation, 0, 1, open_low=True)
    words = f"{flops:.4g} FLOPs / ({peak_flops_per_s:.4g} FLOP/s × MFU {utilisation:g}) / 3600"
    hours = flops / (peak_flops_per_s * utilisation) / 3600
    return single("hours", "device hours", hours, words)


def cost_usd(hours: float, usd_per_hour: float) -> Total:
    """Device hours times their price."""
    usd = check_number("hours", hours) * check_number("usd_per_hour", usd_per_hour)
    return single("USD", "USD", usd, f"{hours:,.0f} h × ${usd_per_hour:g}")


def energy_kwh(hours: float, watts: float, pue: float = 1.0) -> Total:
    """Device hours at `watts` each, times the data centre's power usage effectiveness (1.0: all
    power goes into the devices). With the TDP for watts, an upper bound of what devices draw."""
    check_number("hours", hours)
    check_number("watts", watts, open_low=True)
    check_number("pue", pue, 1)
    words = f"{hours:,.0f} h × {watts:g} W / 1000 × PUE {pue:g}"
    return single("kWh", "kWh", hours * watts / 1000 * pue, words)


def carbon_kg(kwh: float, kg_per_kwh: float) -> Total:
    """Energy times the grid's intensity."""
    value = check_number("kwh", kwh) * check_number("kg_per_kwh", kg_per_kwh)
    return single("kg CO2", "kg CO2", value, f"{kwh:,.0f} kWh × {kg_per_kwh:g} kg")


@dataclass(frozen=True)
class Bill:
    """What a run costs, and how each figure came about."""

    device_hours: float
    usd: float
    kwh: float
    carbon_kg: float
    terms: tuple[Term, ...]


def bill(flops: float, *, peak_flops_per_s: float, utilisation: float, **rates: float) -> Bill:
    """From FLOPs to hours, dollars, energy and carbon; rates: what hours_bill assumes."""
    return hours_bill(device_hours(flops, peak_flops_per_s, utilisation), **rates)


def hours_bill(
    hours: float | Total,
    *,
    usd_per_hour: float,
    watts: float,
    pue: float = 1.1,
    kg_per_kwh: float = LLAMA_GRID_KG_PER_KWH,
) -> Bill:
    """The same from device hours as published, or as computed."""
    if not isinstance(hours, Total):
        hours = single("hours", "device hours", hours, "as published")
    usd = cost_usd(hours.total, usd_per_hour)
    kwh = energy_kwh(hours.total, watts, pue)
    carbon = carbon_kg(kwh.total, kg_per_kwh)
    terms = tuple(part.terms[0] for part in (hours, usd, kwh, carbon))
    return Bill(hours.total, usd.total, kwh.total, carbon.total, terms)
