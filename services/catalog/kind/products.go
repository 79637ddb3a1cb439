package kind

import (
	"fmt"

	"github.com/shopspring/decimal"

	catalogv1 "github.com/tollway/tollway/schemas/proto/tollway/catalog/v1"
)

var product = spec{
	normalize: changes(func(p *catalogv1.Product) {
		if p.GetVisibility() == catalogv1.Visibility_VISIBILITY_UNSPECIFIED {
			p.Visibility = catalogv1.Visibility_INTERNAL
		}
	}),
	validate: checks(func(p *catalogv1.Product, v *Violations) {
		required(v, "display_name", p.GetDisplayName(), maxDisplayName)
		length(v, "description", p.GetDescription(), maxDescription)
		distinct(v, "operations", p.GetOperations(), maxMembers)
		distinct(v, "visible_to", p.GetVisibleTo(), maxMembers)
		distinct(v, "environments", p.GetEnvironments(), maxMembers)
	}),
	references: with(func(p *catalogv1.Product) []Reference {
		out := refs("operations", p.GetOperations(), Operation, API)
		out = append(out, refs("visible_to", p.GetVisibleTo(), Account)...)
		return append(out, refs("environments", p.GetEnvironments(), Environment)...)
	}),
}

var plan = spec{
	validate: checks(func(p *catalogv1.Plan, v *Violations) {
		required(v, "display_name", p.GetDisplayName(), maxDisplayName)
		length(v, "description", p.GetDescription(), maxDescription)
	}),
}

var planVersion = spec{
	numbered: true,
	kept:     []string{"state"},
	normalize: changes(func(p *catalogv1.PlanVersion) {
		if p.GetState() == catalogv1.PlanVersionState_PLAN_VERSION_STATE_UNSPECIFIED {
			p.State = catalogv1.PlanVersionState_DRAFT
		}
		if p.GetBillingPeriod() == catalogv1.BillingPeriod_BILLING_PERIOD_UNSPECIFIED {
			p.BillingPeriod = catalogv1.BillingPeriod_MONTH
		}
		microseconds(p.GetStartTime())
	}),
	validate: checks(func(p *catalogv1.PlanVersion, v *Violations) {
		moment(v, "start_time", p.GetStartTime())
		currencyCode(v, "currency", p.GetCurrency())
		amount(v, "setup_fee", p.GetSetupFee(), p.GetCurrency())
		amount(v, "recurring_fee", p.GetRecurringFee(), p.GetCurrency())
		charges(v, p.GetCharges())
		quotas(v, p.GetQuotas())
		if s := p.GetState(); s == catalogv1.PlanVersionState_PUBLISHED || s == catalogv1.PlanVersionState_ARCHIVED {
			complete(p, v)
		}
	}),
	references: with(func(p *catalogv1.PlanVersion) []Reference {
		out := []Reference{{"account", p.GetAccount(), []*Kind{Account}}}
		for i, c := range p.GetCharges() {
			out = append(out, Reference{index("charges", i) + ".meter", c.GetMeter(), []*Kind{Meter}})
		}
		for i, q := range p.GetQuotas() {
			out = append(out, Reference{index("quotas", i) + ".meter", q.GetMeter(), []*Kind{Meter}})
			out = append(out, refs(index("quotas", i)+".operations", q.GetOperations(), Operation, API)...)
		}
		return out
	}),
}

// complete adds what a version needs to be published.
func complete(p *catalogv1.PlanVersion, v *Violations) {
	if p.GetStartTime() == nil {
		v.Add("start_time", "is required to publish")
	}
	if p.GetCurrency() == "" {
		v.Add("currency", "is required to publish")
	}
}

func charges(v *Violations, all []*catalogv1.Charge) {
	count(v, "charges", len(all), maxCharges)
	ids := make([]string, len(all))
	for i, c := range all {
		ids[i] = c.GetId()
		at := index("charges", i)
		length(v, at+".display_name", c.GetDisplayName(), maxDisplayName)
		required(v, at+".meter", c.GetMeter(), maxText)
		number(v, at+".free_units", c.GetFreeUnits())
		packageSize(v, at+".package_size", c)
		if c.GetModel() == catalogv1.ChargeModel_CHARGE_MODEL_UNSPECIFIED {
			v.Add(at+".model", "is required")
		}
		tiers(v, at+".tiers", c)
	}
	lineIDs(v, "charges", ids)
}

// lineIDs checks the ids of parts of a version.
func lineIDs(v *Violations, field string, ids []string) {
	seen := map[string]bool{}
	for i, id := range ids {
		switch {
		case !idPattern.MatchString(id):
			v.Add(index(field, i)+".id", "%q %s", id, idRule)
		case seen[id]:
			v.Add(index(field, i)+".id", "%q is there twice", id)
		}
		seen[id] = true
	}
}

func packageSize(v *Violations, field string, c *catalogv1.Charge) {
	size, ok := number(v, field, c.GetPackageSize())
	switch isPackage := c.GetModel() == catalogv1.ChargeModel_PACKAGE; {
	case isPackage && ok && !size.IsPositive():
		v.Add(field, "must be above zero")
	case !isPackage && c.GetPackageSize() != "":
		v.Add(field, "is for PACKAGE only")
	}
}

// tiers checks that bands follow one another and that the last one is open.
func tiers(v *Violations, field string, c *catalogv1.Charge) {
	all := c.GetTiers()
	count(v, field, len(all), maxTiers)
	model := c.GetModel()
	single := model == catalogv1.ChargeModel_PER_UNIT || model == catalogv1.ChargeModel_PACKAGE
	switch {
	case single && len(all) != 1:
		v.Add(field, "%s has exactly one, without a limit", model)
	case len(all) == 0:
		v.Add(field, "at least one is required")
	}
	var below decimal.Decimal
	for i, t := range all {
		at := index(field, i)
		number(v, at+".unit_price", t.GetUnitPrice())
		number(v, at+".flat_fee", t.GetFlatFee())
		if t.GetUnitPrice() == "" && t.GetFlatFee() == "" {
			v.Add(at+".unit_price", "is required where there is no flat_fee")
		}
		below = tierLimit(v, at+".up_to", t.GetUpTo(), below, i == len(all)-1)
	}
}

func tierLimit(v *Violations, field, text string, below decimal.Decimal, last bool) decimal.Decimal {
	limit, ok := number(v, field, text)
	switch {
	case last && text != "":
		v.Add(field, "must be empty in the last tier, which has no limit")
	case !last && text == "":
		v.Add(field, "is required in every tier but the last")
	case !last && ok && !limit.GreaterThan(below):
		v.Add(field, "%s is not above the limit before it", text)
	}
	if !ok || text == "" {
		return below
	}
	return limit
}

func quotas(v *Violations, all []*catalogv1.QuotaLimit) {
	count(v, "quotas", len(all), maxQuotas)
	ids := make([]string, len(all))
	for i, q := range all {
		ids[i] = q.GetId()
		at := index("quotas", i)
		required(v, at+".meter", q.GetMeter(), maxText)
		if q.GetLimit() < 1 {
			v.Add(at+".limit", "must be at least 1")
		}
		if q.GetWindow() == catalogv1.QuotaWindow_QUOTA_WINDOW_UNSPECIFIED {
			v.Add(at+".window", "is required")
		}
		distinct(v, at+".operations", q.GetOperations(), maxQuotas)
	}
	lineIDs(v, "quotas", ids)
}

// ProductOf is the product that a plan is of.
func ProductOf(plan string) string {
	product, _ := Split(plan)
	return product
}

var subscription = spec{
	immutable:  []string{"app"},
	outputOnly: []string{"phases", "reason"},
	kept:       []string{"state", "start_time", "end_time"},
	restored:   []string{"phases", "reason"},
	normalize: changes(func(s *catalogv1.Subscription) {
		microseconds(s.GetStartTime())
		microseconds(s.GetEndTime())
		for _, p := range s.GetPhases() {
			microseconds(p.GetStartTime())
		}
	}),
	validate: checks(func(s *catalogv1.Subscription, v *Violations) {
		required(v, "plan", s.GetPlan(), 400)
		moment(v, "start_time", s.GetStartTime())
		moment(v, "end_time", s.GetEndTime())
		length(v, "reason", s.GetReason(), MaxReason)
		count(v, "phases", len(s.GetPhases()), maxPhases)
		if account := AccountOf(s.GetName()); s.GetApp() != "" && AccountOf(s.GetApp()) != account {
			v.Add("app", "%q is not an app of %s", s.GetApp(), account)
		}
	}),
	references: with(func(s *catalogv1.Subscription) []Reference {
		out := []Reference{{"app", s.GetApp(), []*Kind{App}}, {"plan", s.GetPlan(), []*Kind{Plan}}}
		for i, p := range s.GetPhases() {
			out = append(out, Reference{fmt.Sprintf("phases[%d].plan_version", i), p.GetPlanVersion(), []*Kind{PlanVersion}})
		}
		return out
	}),
}
