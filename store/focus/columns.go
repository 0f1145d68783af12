package focus

// A kind is the type of a column's values.
type kind int

const (
	text  kind = iota
	cost       // money: at most nine decimals when we write it
	ratio      // any other number: at most eighteen decimals when we write it
	date       // an instant of UTC
	flat       // a JSON object of plain values
	deep       // a JSON object
)

// A column is one of the specification.
type column struct {
	name      string
	kind      kind
	mandatory bool // must be in every file
	filled    bool // must not be null
}

// standard lists the columns of FOCUS 1.2, and the five of 1.3 for split cost
// allocation, in alphabetical order.
var standard = []column{
	{"AllocatedMethodDetails", deep, false, false},
	{"AllocatedMethodId", text, false, false},
	{"AllocatedResourceId", text, false, false},
	{"AllocatedResourceName", text, false, false},
	{"AllocatedTags", flat, false, false},
	{"AvailabilityZone", text, false, false},
	{"BilledCost", cost, true, true},
	{"BillingAccountId", text, true, true},
	{"BillingAccountName", text, true, false},
	{"BillingAccountType", text, false, false},
	{"BillingCurrency", text, true, true},
	{"BillingPeriodEnd", date, true, true},
	{"BillingPeriodStart", date, true, true},
	{"CapacityReservationId", text, false, false},
	{"CapacityReservationStatus", text, false, false},
	{"ChargeCategory", text, true, true},
	{"ChargeClass", text, true, false},
	{"ChargeDescription", text, true, false},
	{"ChargeFrequency", text, false, true},
	{"ChargePeriodEnd", date, true, true},
	{"ChargePeriodStart", date, true, true},
	{"CommitmentDiscountCategory", text, false, false},
	{"CommitmentDiscountId", text, false, false},
	{"CommitmentDiscountName", text, false, false},
	{"CommitmentDiscountQuantity", ratio, false, false},
	{"CommitmentDiscountStatus", text, false, false},
	{"CommitmentDiscountType", text, false, false},
	{"CommitmentDiscountUnit", text, false, false},
	{"ConsumedQuantity", ratio, false, false},
	{"ConsumedUnit", text, false, false},
	{"ContractedCost", cost, true, true},
	{"ContractedUnitPrice", ratio, false, false},
	{"EffectiveCost", cost, true, true},
	{"InvoiceId", text, false, false},
	{"InvoiceIssuerName", text, true, true},
	{"ListCost", cost, true, true},
	{"ListUnitPrice", ratio, false, false},
	{"PricingCategory", text, false, false},
	{"PricingCurrency", text, false, false},
	{"PricingCurrencyContractedUnitPrice", ratio, false, false},
	{"PricingCurrencyEffectiveCost", ratio, false, false},
	{"PricingCurrencyListUnitPrice", ratio, false, false},
	{"PricingQuantity", ratio, true, false},
	{"PricingUnit", text, true, false},
	{"ProviderName", text, true, true},
	{"PublisherName", text, true, true},
	{"RegionId", text, false, false},
	{"RegionName", text, false, false},
	{"ResourceId", text, false, false},
	{"ResourceName", text, false, false},
	{"ResourceType", text, false, false},
	{"ServiceCategory", text, true, true},
	{"ServiceName", text, true, true},
	{"ServiceSubcategory", text, false, true},
	{"SkuId", text, false, false},
	{"SkuMeter", text, false, false},
	{"SkuPriceDetails", flat, false, false},
	{"SkuPriceId", text, false, false},
	{"SubAccountId", text, false, false},
	{"SubAccountName", text, false, false},
	{"SubAccountType", text, false, false},
	{"Tags", flat, false, false},
}

// allowed lists the values of columns that have only some.
var allowed = map[string][]string{
	"ChargeCategory":             {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
	"ChargeClass":                {"Correction"},
	"ChargeFrequency":            {"One-Time", "Recurring", "Usage-Based"},
	"PricingCategory":            {"Standard", "Dynamic", "Committed", "Other"},
	"CommitmentDiscountCategory": {"Spend", "Usage"},
	"CommitmentDiscountStatus":   {"Used", "Unused"},
	"CapacityReservationStatus":  {"Used", "Unused"},
	"ServiceCategory": {"AI and Machine Learning", "Analytics", "Business Applications", "Compute", "Databases",
		"Developer Tools", "Multicloud", "Identity", "Integration", "Internet of Things", "Management and Governance",
		"Media", "Migration", "Mobile", "Networking", "Security", "Storage", "Web", "Other"},
}

// own are our columns, after the standard ones.
var own = []column{
	{"x_CpuCost", cost, false, true},
	{"x_EstimatedCost", cost, false, true},
	{"x_GpuCost", cost, false, true},
	{"x_IdleSpareCost", cost, false, true},
	{"x_IdleStrandedConstraintCost", cost, false, true},
	{"x_IdleStrandedShapeCost", cost, false, true},
	{"x_IdleSystemCost", cost, false, true},
	{"x_IdleUnexplainedCost", cost, false, true},
	{"x_IdleWaitingScaleDownCost", cost, false, true},
	{"x_MachineType", text, false, true},
	{"x_MemoryCost", cost, false, true},
	{"x_OpenCostCost", cost, false, true},
	{"x_OriginBilledCost", cost, false, true},
	{"x_OriginChargeId", text, false, true},
	{"x_OriginListCost", cost, false, true},
	{"x_OriginPricingQuantity", ratio, false, true},
	{"x_Pool", text, false, false},
	{"x_SlackCost", cost, false, true},
	{"x_UsedCost", cost, false, true},
}

// written are the columns of our export, in order.
var written = func() []column {
	unused := map[string]bool{
		"AvailabilityZone": true, "BillingAccountType": true, "CapacityReservationId": true, "CapacityReservationStatus": true,
		"PricingCurrency": true, "PricingCurrencyContractedUnitPrice": true, "PricingCurrencyEffectiveCost": true,
		"PricingCurrencyListUnitPrice": true, "RegionId": true, "RegionName": true, "SkuPriceDetails": true,
		"CommitmentDiscountCategory": true, "CommitmentDiscountId": true, "CommitmentDiscountName": true, "CommitmentDiscountQuantity": true,
		"CommitmentDiscountStatus": true, "CommitmentDiscountType": true, "CommitmentDiscountUnit": true, "SubAccountType": true,
	}
	var cols []column
	for _, c := range standard {
		if !unused[c.name] {
			cols = append(cols, c)
		}
	}
	return append(cols, own...)
}()

// at is the position of a column in a written row.
var at = func() map[string]int {
	m := map[string]int{}
	for i, c := range written {
		m[c.name] = i
	}
	return m
}()
